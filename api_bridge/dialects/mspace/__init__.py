"""MSpace Bulk Email: the reseller API, as its customers use it.

Three POST calls with JSON, each under ``/email/api/...`` and ``/api/...``: ``reseller/createSubUser`` and
``reseller/manageCredits`` with HTTP Basic, ``send`` with the API key in the body. Answers are
``{"status": "success", ...}`` or ``{"status": "error", "message": ...}`` with the original's texts, letter by letter.
What differs from the original and why: README.md of ``api_bridge``. Start with ``routes``.
"""
