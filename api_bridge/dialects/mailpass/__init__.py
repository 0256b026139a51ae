"""MailPass Mail Send: messages one by one and in batches, what became of them, bounces and webhooks.

``routes`` has the paths, ``sending``, ``status``, ``bounces`` and ``webhooks`` what they do, ``shapes`` turns JSON into
messages and ``errors`` draws the error bodies, ``document`` is the OpenAPI document.
"""
