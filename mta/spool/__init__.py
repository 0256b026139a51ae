"""The promise behind a 250: messages, their recipients, credit leases and the outbox, durable in one SQLite file.

``store`` says what a spool must do and what its records are; ``sqlite`` does it with group commit. Only the custody
package changes a spool; the queues read it. The schema, for other people's programs, is in ``mta/doc/spool.md``.
"""
