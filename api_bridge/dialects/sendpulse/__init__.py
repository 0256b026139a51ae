"""SendPulse SMTP service: the token endpoint, all documented calls, and the further ones that its libraries make.

Its client libraries write one call in eight ways (JSON, JSON text in JSON, PHP-serialised text in JSON and in forms,
form brackets, JSON bodies on GET and DELETE, a bare JSON query): ``decoder`` reads them all, with ``forms`` and
``phpserial``, and no other module knows how a parameter came. Start with ``routes``; each resource has a module.

Answers are JSON with status 200; errors are ``{"message", "error_code"}`` with the original's texts and codes
(``errors``). What differs from the original and why: README.md of ``api_bridge``.
"""
