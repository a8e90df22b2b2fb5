"""A block that sends messages by mail through a lab's own SMTP server; Prefect itself brings none that does."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage

from prefect.blocks.abstract import NotificationBlock
from pydantic import Field, SecretStr

SECONDS = 30.0  # for the server to take a message


class Mail(NotificationBlock):
    """Sends messages by mail."""

    _block_type_name = "Mail (SMTP)"
    _block_type_slug = "mail"

    host: str = Field(description="The SMTP server, e.g. smtp.example.org.")
    port: int = Field(default=587, ge=1, le=65535, description="587 with STARTTLS, 465 with TLS, 25 without either.")
    security: str = Field(
        default="starttls",
        description="How the way to the server is protected.",
        json_schema_extra={"enum": ["starttls", "tls", "none"]},
    )
    sender: str = Field(description="The address that messages come from.")
    recipients: list[str] = Field(min_length=1, description="The addresses that they go to.")
    user: str = Field(default="", description="Who logs in at the server; empty: nobody has to.")
    password: SecretStr = Field(default=SecretStr(""), description="The password of that user.")

    async def notify(self, body: str, subject: str | None = None) -> None:
        """Send a message.

        Raises:
            OSError, smtplib.SMTPException: the server does not take it.
        """
        message = EmailMessage()
        message["Subject"] = " ".join((subject or body.partition("\n")[0]).split())
        message["From"], message["To"] = self.sender, ", ".join(self.recipients)
        message.set_content(body)
        await asyncio.to_thread(self._send, message)

    def _send(self, message: EmailMessage) -> None:
        context = ssl.create_default_context()
        if self.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=SECONDS, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=SECONDS)
        with server:
            if self.security == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password.get_secret_value())
            server.send_message(message)
