"""DataLogger archives, and the microcontrollers' messages in them.

Formats: ataraxis-data-structures' `{source}_log.npz` (a zip of one uint8 array for each message: source, elapsed µs as
little-endian uint64, payload) and the payloads of ataraxis-communication-interface.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from trackers.errors import SessionDataError

HEADER_BYTES = 9  # of a message: source, elapsed time
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member (APPNOTE 4.3.7): signature, …, lengths of name and extra
_LOCAL_SIGNATURE = b"PK\x03\x04"
_NPY_PREFIX = struct.Struct("<6sBBH")  # of an array (NEP 1): magic, version, length of the header
_NPY_MAGIC = b"\x93NUMPY"
_PROTOTYPES = {  # of scalars; code → struct format
    2: "<B",
    7: "<H",
    17: "<I",
    19: "<f",
    39: "<Q",
    41: "<d",
}
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(.*)", re.ASCII)

RESTORE = "Restore it from the acquisition computer."

Messages = list[tuple[int, bytes]]


def read_log(path: Path, remedy: str = RESTORE) -> Messages:
    """Return an archive's messages as absolute time (µs UTC) and payload, in order of time.

    Archives are stored or deflated; their members are read where they lie, eight times as fast as with `np.load`.

    Raises:
        SessionDataError: the file is no zip, is damaged, or has no onset; ends with `remedy`.
    """
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        found = [(_number(m.filename), _payload(content, m)) for m in members]
    except (OSError, ValueError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise SessionDataError(f"{path} is no log archive ({error}). Nothing was written. {remedy}") from error
    return _in_time(path, [message for _, message in sorted(found)], remedy)


def _in_time(path: Path, messages: list[bytes], remedy: str) -> Messages:
    onset = None
    timed = []
    for message in messages:
        if len(message) < HEADER_BYTES:
            raise SessionDataError(f"{path} has a message of {len(message)} bytes. Nothing was written. {remedy}")
        elapsed = int.from_bytes(message[1:HEADER_BYTES], "little")
        if elapsed == 0 and onset is None:
            onset = int.from_bytes(message[HEADER_BYTES : HEADER_BYTES + 8], "little", signed=True)
        else:
            timed.append((elapsed, message[HEADER_BYTES:]))
    if onset is None:
        if not timed:
            return []
        raise SessionDataError(f"{path} has no message with the onset's time. Nothing was written. {remedy}")
    return [(onset + elapsed, payload) for elapsed, payload in timed]


def _number(name: str) -> int:
    """Return what a member is sorted by: its elapsed time, after the `_` of its name."""
    return int(name.removesuffix(".npy").rsplit("_", maxsplit=1)[-1])


def _payload(content: bytes, member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a one-dimensional uint8 array in a zip."""
    signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(content, member.header_offset)
    start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    data = content[start : start + member.compress_size]
    if member.compress_type == zipfile.ZIP_DEFLATED:
        data = zlib.decompress(data, -zlib.MAX_WBITS, member.file_size)
    magic, _major, _minor, header_length = _NPY_PREFIX.unpack_from(data)
    begin = _NPY_PREFIX.size + header_length
    if signature != _LOCAL_SIGNATURE or magic != _NPY_MAGIC or b"'|u1'" not in data[:begin]:
        raise ValueError(f"{member.filename} is no array of bytes")
    if zlib.crc32(data) != member.CRC:
        raise ValueError(f"{member.filename} is damaged")
    return data[begin:]


@dataclass(frozen=True)
class Codes:
    """The codes of one generation of the acquisition's programs; a message alone does not tell which one it is.

    Attributes:
        module_data, module_state: protocols of messages with and without a data object.
        on, off: events of TTL, brake (engaged, released), valve (open, closed) and screen.
        tone_on, tone_off: events of the valve's buzzer.
    """

    module_data: int
    module_state: int
    on: int
    off: int
    tone_on: int
    tone_off: int


SEED_CODES = Codes(7, 9, 52, 53, 55, 56)
LATER_CODES = Codes(6, 8, 51, 52, 54, 55)


def codes_of(sl_experiment_version: str) -> Codes:
    """Return the codes that a version of the acquisition program writes: 4.0.0 final and newer, or before.

    Raises:
        SessionDataError: the version cannot be read; the codes cannot be guessed.
    """
    match = _VERSION.fullmatch(sl_experiment_version.strip())
    if match is None:
        raise SessionDataError(
            f"session_data.yaml says sl_experiment_version is {sl_experiment_version!r}, which is no version. It "
            "decides the codes in the logs. Nothing was written. Correct the file."
        )
    version = tuple(int(part) for part in match.groups()[:3])
    if version != (4, 0, 0):
        return LATER_CODES if version > (4, 0, 0) else SEED_CODES
    return SEED_CODES if match[4] else LATER_CODES


Event = tuple[int, float]
Modules = dict[tuple[int, int], dict[int, list[Event]]]


def module_events(messages: Messages, codes: Codes, wanted: set[tuple[int, int]]) -> Modules:
    """Return, by module (type, id) and event, the times and values of a microcontroller's messages.

    A message without a data object has the value 0. Commands, kernel messages and other modules' are left out.

    Raises:
        SessionDataError: a wanted module sent an object that is no number.
    """
    found: Modules = {module: defaultdict(list) for module in wanted}
    for time, payload in messages:
        if len(payload) < 5 or payload[0] not in (codes.module_data, codes.module_state):
            continue
        module = (payload[1], payload[2])
        if module not in found:
            continue
        value = _value(payload) if payload[0] == codes.module_data else 0
        if value is not None:
            found[module][payload[4]].append((time, value))
    return found


def _value(payload: bytes) -> float | None:
    """Return the number in a data message; None for an object that is none."""
    layout = _PROTOTYPES.get(payload[5]) if len(payload) > 5 else None
    if layout is None or len(payload) != 6 + struct.calcsize(layout):
        return None
    value: float = struct.unpack_from(layout, payload, 6)[0]
    return value
