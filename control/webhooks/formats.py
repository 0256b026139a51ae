"""The payload formats on offer, each with what renders it."""

from control.model.webhooks import Format
from control.webhooks.mailpass import MailPassRenderer
from control.webhooks.rendering import NativeRenderer, Renderer
from control.webhooks.sendpost import SendPostRenderer
from control.webhooks.sendpulse import SendPulseRenderer

RENDERERS: dict[Format, Renderer] = {
    Format.NATIVE: NativeRenderer(),
    Format.SENDPOST: SendPostRenderer(legacy=False),
    Format.SENDPULSE: SendPulseRenderer(),
    Format.MAILPASS: MailPassRenderer(),
    Format.SENDPOST_LEGACY: SendPostRenderer(legacy=True),
}
