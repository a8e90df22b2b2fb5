"""paramiko's transport, made fit to carry many commands for days."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import paramiko
from paramiko import common
from paramiko.packet import Packetizer

KEEPALIVE_SECONDS = 15.0  # without a word from the server, it is asked whether it is there
SILENCE_SECONDS = 40.0  # of a server that was asked; then the connection is taken for dead
DEAD = (paramiko.SSHException, OSError, EOFError)  # what paramiko raises when a connection is no more
LOG = logging.getLogger("sessionflow.paramiko")
LOG.setLevel(logging.CRITICAL)  # paramiko reports as errors what is handled here; set another level to read it


class HearingPacketizer(Packetizer):
    """Remembers when something came from the other side."""

    heard = 0.0

    def read_message(self) -> Any:
        """Return the next message."""
        message = super().read_message()
        self.heard = time.monotonic()
        return message


Handler = Callable[[Any, Any], None]  # of a channel's message


def _told(handler: Handler) -> Handler:
    """Make a handler that tells whoever listens to the channel."""

    def handle(channel: Any, message: Any) -> None:
        handler(channel, message)
        listener = channel.get_transport().listeners.get(channel.get_id())
        if listener:
            listener()

    return handle


def _closed_by_server(channel: Any, _message: Any) -> None:
    """Note the server's word that a channel is over.

    paramiko's own handler answers at once, from this thread, while another thread may have data or an EOF for the
    channel on its way; sshd then gets them for a channel that it no longer has, and ends the whole connection. Here
    the answer is left to whoever uses the channel: it is the last thing that they send on it, see `Channel.close`.
    """
    channel.over = True
    channel.in_buffer.close()
    channel.in_stderr_buffer.close()
    channel.status_event.set()
    channel.event.set()  # ends a wait for an answer to exec
    with channel.lock:
        channel.out_buffer_cv.notify_all()


class Transport(paramiko.Transport):
    """One SSH connection.

    Attributes:
        listeners: by channel id, or another key, what is called in this transport's thread after every message for the
            channel, and when the connection has ended.
        last_word: what the server said when it ended the connection.
        ended_because: why this side ended it.
    """

    _channel_handler_table: ClassVar[dict[int, Handler]] = {
        **{kind: _told(handler) for kind, handler in paramiko.Transport._channel_handler_table.items()},  # type: ignore[attr-defined]
        common.MSG_CHANNEL_CLOSE: _told(_closed_by_server),
    }

    _active_check_timeout = 2.0  # paramiko's thread looks up this often when nothing comes; its own 0.1 s cost CPU

    def __init__(self, sock: Any, below: Callable[[], None] | None = None) -> None:
        """Prepare a connection over a socket that is connected already.

        Args:
            sock: a socket, or a channel of another transport.
            below: ends what the socket rests on.
        """
        with contextlib.suppress(OSError, AttributeError):  # without it every small request waits 40 ms
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, packetizer_class=HearingPacketizer)
        self.set_log_channel(LOG.name)
        self.listeners: dict[object, Callable[[], None]] = {}
        self.last_word = ""
        self.ended_because = ""
        self._below = below
        self._ended = threading.Event()

    def run(self) -> None:
        """Carry the connection; paramiko's thread."""
        try:
            with contextlib.suppress(*DEAD):  # what it rests on may be gone when it closes that at its end
                super().run()
        finally:
            self.active = False
            self._ended.set()
            for listener in list(self.listeners.values()):
                listener()
            if self._below:
                self._below()

    def keep_alive(self) -> None:
        """Notice from now on when the other side is gone."""
        threading.Thread(target=self._keep_alive, name="ssh keepalive", daemon=True).start()

    def end(self, reason: str) -> None:
        """End the connection."""
        self.ended_because = self.ended_because or reason
        self.close()

    def close(self) -> None:
        """End the connection, and wake its thread before its socket's number can become another file's."""
        if self.active and isinstance(self.sock, socket.socket):
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            if threading.current_thread() is not self:
                self.join(1.0)
        with contextlib.suppress(*DEAD):
            super().close()

    def signal(self, channel: paramiko.Channel, name: str) -> None:
        """Send a signal to what a channel runs; servers may ignore it."""
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("signal")
        message.add_boolean(False)
        message.add_string(name)
        self._send_user_message(message)  # type: ignore[attr-defined]

    def _keep_alive(self) -> None:
        self.packetizer.heard = time.monotonic()  # type: ignore[attr-defined]
        asked: threading.Thread | None = None
        while not self._ended.wait(KEEPALIVE_SECONDS / 3):
            silence = time.monotonic() - self.packetizer.heard  # type: ignore[attr-defined]
            if silence > SILENCE_SECONDS:
                self.end(f"it did not answer for {silence:.0f} s")
            elif silence > KEEPALIVE_SECONDS and not (asked and asked.is_alive()):
                # In a thread of its own: sending may hang as well, and the answer is waited for.
                asked = threading.Thread(target=self.global_request, args=("keepalive@openssh.com",), daemon=True)
                asked.start()

    def _parse_disconnect(self, message: Any) -> None:
        message.get_int()
        self.last_word = message.get_text()
