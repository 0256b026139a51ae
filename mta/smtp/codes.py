"""Named replies. Each is made and rendered once; a session answers with these and builds a reply only when its text
varies. Enhanced codes are from RFC 3463, RFC 4954 and RFC 5248.
"""

from typing import Final

from mta.smtp.reply import Reply

# -- success ---------------------------------------------------------------------------------------------------------
OK: Final = Reply(250, "2.0.0", "OK")
SENDER_OK: Final = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Recipient OK")
BYE: Final = Reply(221, "2.0.0", "Bye")
HELP_TEXT: Final = Reply(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT STARTTLS AUTH; see RFC 5321")
CANNOT_VERIFY: Final = Reply(252, "2.5.2", "Cannot verify the address; send the message to find out")
START_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED: Final = Reply(235, "2.7.0", "Authentication successful")

# -- go on -----------------------------------------------------------------------------------------------------------
START_DATA: Final = Reply(354, None, "Start mail input; end with <CRLF>.<CRLF>")
AUTH_CONTINUE: Final = Reply(334, None, "")
AUTH_USERNAME: Final = Reply(334, None, "VXNlcm5hbWU6")
AUTH_PASSWORD: Final = Reply(334, None, "UGFzc3dvcmQ6")

# -- the connection ends ---------------------------------------------------------------------------------------------
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MUCH_JUNK: Final = Reply(421, "4.7.0", "Too many commands without a message, closing the connection")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Service is shutting down, closing the connection")
TIMED_OUT: Final = Reply(421, "4.4.2", "Timeout, closing the connection")
NOT_SMTP: Final = Reply(521, "5.5.1", "This is an SMTP server, closing the connection")
BARE_LINE_END: Final = Reply(521, "5.5.2", "Lines must end with CRLF; bare CR or LF is refused")
DISGUISED_DATA_END: Final = Reply(521, "5.5.2", "The message holds a disguised end of data")
LINE_WITHOUT_END: Final = Reply(521, "5.5.2", "Line far too long, closing the connection")
CLEARTEXT_AFTER_STARTTLS: Final = Reply(554, "5.5.0", "Clear text after STARTTLS, closing the connection")
CHUNKING_NOT_OFFERED: Final = Reply(521, "5.5.1", "BDAT is not offered, closing the connection")

# -- syntax ----------------------------------------------------------------------------------------------------------
UNRECOGNISED: Final = Reply(500, "5.5.2", "Command not recognised")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Line too long")
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Authentication exchange line is too long")
UNPRINTABLE: Final = Reply(501, "5.5.2", "Commands hold printable characters only, in UTF-8")
NO_ARGUMENT_ALLOWED: Final = Reply(501, "5.5.4", "This command takes no argument")
ARGUMENT_NEEDED: Final = Reply(501, "5.5.4", "This command needs an argument")
BAD_HELO_NAME: Final = Reply(501, "5.5.4", "Give a host name or an address literal in brackets")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")

# -- order -----------------------------------------------------------------------------------------------------------
OUT_OF_ORDER: Final = Reply(503, "5.5.1", "Command out of order")
HELLO_FIRST: Final = Reply(503, "5.5.1", "Say EHLO first")
MAIL_FIRST: Final = Reply(503, "5.5.1", "Send MAIL first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "A transaction is already open")
RCPT_FIRST: Final = Reply(503, "5.5.1", "Send RCPT first")
NO_VALID_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")

# -- parameters and limits -------------------------------------------------------------------------------------------
BAD_SIZE: Final = Reply(501, "5.5.4", "SIZE takes a number of octets")
BAD_BODY: Final = Reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
BAD_SMTPUTF8: Final = Reply(501, "5.5.4", "SMTPUTF8 takes no value")
BAD_AUTH_PARAMETER: Final = Reply(501, "5.5.4", "AUTH takes an address in xtext or <>")
UNKNOWN_PARAMETER: Final = Reply(555, "5.5.4", "Parameter not recognised or not offered")
TOO_LARGE: Final = Reply(552, "5.3.4", "Message exceeds the size limit")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients in one transaction")
NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "A non-ASCII address needs the SMTPUTF8 parameter")
NUL_IN_DATA: Final = Reply(554, "5.6.0", "The message holds a NUL character")

# -- authentication --------------------------------------------------------------------------------------------------
AUTH_REQUIRED: Final = Reply(530, "5.7.0", "Authentication required")
AUTH_NEEDS_TLS: Final = Reply(538, "5.7.11", "Encryption required: use STARTTLS before AUTH")
AUTH_UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Authentication mechanism not offered")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_BAD_BASE64: Final = Reply(501, "5.5.2", "Response is not valid base64")
AUTH_MALFORMED: Final = Reply(501, "5.5.2", "Malformed authentication response")
AUTH_DONE_ALREADY: Final = Reply(503, "5.5.1", "Already authenticated")
AUTH_REFUSED: Final = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_TEMPORARY: Final = Reply(454, "4.7.0", "Temporary authentication failure")

# -- said by our own client session, never by a peer -----------------------------------------------------------------
LOCAL_NEEDS_SMTPUTF8: Final = Reply(550, "5.6.7", "The server does not accept internationalised addresses (SMTPUTF8)")
LOCAL_NEEDS_8BITMIME: Final = Reply(554, "5.6.3", "The server does not accept 8-bit content (8BITMIME)")
LOCAL_TOO_LARGE: Final = Reply(552, "5.3.4", "The message is larger than the server's announced limit")
