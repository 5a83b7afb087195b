"""Files that lead elsewhere: none of them makes a decoder open a socket, another file or another program."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import clip
from media_samples import sweep, wav

from gemma4_gguf.errors import Gemma4Error, MediaError
from gemma4_gguf.media.audio import load_audio, load_sound_track, sound_duration_s
from gemma4_gguf.media.kinds import kind_of_file
from gemma4_gguf.media.picture import read_image
from gemma4_gguf.media.video import sample_frames

READERS: tuple[Callable[[Any], Any], ...] = (
    load_audio,
    load_sound_track,
    sound_duration_s,
    sample_frames,
    read_image,
)

SDP = "v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 {host}\nt=0 0\nm=audio {port} TCP/RTP/AVP 0\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
IMF = '<?xml version="1.0"?><AssetMap><Path>{url}</Path></AssetMap>'
# What FFmpeg follows, or what players do: addresses and names of files in text.
TEXTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
    "hls, behind a mark": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "hls, a master list": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "hls, a key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\nx\n',
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "sdp": SDP,
    "dash": DASH,
    "imf": IMF,
    "asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "pls": "[playlist]\nFile1={url}\nNumberOfEntries=1\n",
    "smil": '<smil><body><video src="{url}"/></body></smil>',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{url}"/></svg>',
    "rtsp": "RTSP/1.0 302 Found\r\nLocation: {url}\r\n\r\n",
    "rtsp text": "rtsptext\n{url}\n",
    "quicktime link": "RTSPtext\r{url}\r",
    "subtitles": "1\n00:00:00,000 --> 00:00:02,000\n{url}\n",
    "vobsub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 00\n",
    "script": 'import("{url}")\nBlankClip()\n',
    "metadata": ";FFMETADATA1\ntitle={url}\n",
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def refuses(reader: Callable[[Any], Any], source: Any) -> bool:
    try:
        reader(source)
    except MediaError:
        return True
    return False


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_open_no_socket(kind: str, listener: socket.socket, tmp_path: Path) -> None:
    host, port = listener.getsockname()
    text = TEXTS[kind].format(url=f"http://{host}:{port}/a.ts", host=host, port=port).encode()
    for suffix in ("", ".mp4", ".m3u8", ".wav"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(text)
        for reader in READERS:
            assert refuses(reader, text) and refuses(reader, path)
        kind_of_file(path)
    with pytest.raises(BlockingIOError):  # nobody has called
        listener.accept()


@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "pls"])
@pytest.mark.parametrize(
    "form", ["{name}", "{directory}/{name}", "file:{directory}/{name}", "subfile,,:{name}"]
)
def test_texts_open_no_other_file(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other file is a sound that could be heard."""
    monkeypatch.chdir(tmp_path)
    for other in ("other.wav", "other.ts"):
        Path(other).write_bytes(
            wav(sweep(300)) if other.endswith("wav") else clip(3, 5, container="mpegts", sound=True)
        )
        url = form.format(name=other, directory=tmp_path)
        Path("list").write_text(TEXTS[kind].format(url=url))
        assert all(refuses(reader, Path("list")) for reader in READERS)


def test_names_with_patterns_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path(f"a{number}.png").write_bytes(b"\x89PNG no picture")
    for name in ("a%d.png", "a*.png", "concat:a0.png|a1.png", "pipe:0", "data:audio/wav;base64,UklGRg"):
        for reader in READERS:
            with pytest.raises(MediaError, match="does not exist"):
                reader(name)


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def test_references_of_quicktime_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MOV may say that its samples are in another file: by an alias record, and by an address."""
    monkeypatch.chdir(tmp_path)
    other = clip(5, 5)
    Path("other.mp4").write_bytes(other)
    own = other.index(b"url \0\0\0\1") - 4
    names = (boxed(b"url ", bytes(4) + b"file:other.mp4\0"), boxed(b"url ", bytes(4) + b"other.mp4\0"))
    for name in names:
        content = bytearray(other[:own] + name + other[own + 12 :])
        at = own
        for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):  # all that lie around it
            place = content.rindex(kind, 0, at) - 4
            (size,) = struct.unpack_from(">I", content, place)
            struct.pack_into(">I", content, place, size + len(name) - 12)
        start = content.index(b"mdat") + 4  # what is shown could only come from the other file
        content[start : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - start)
        assert refuses(sample_frames, bytes(content))


def test_postscript_is_not_run(tmp_path: Path) -> None:
    """Pillow hands it to Ghostscript."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(out) (w) file showpage\n"
    path = tmp_path / "picture.png"
    path.write_bytes(program)
    for source in (path, program, b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, 100, 0, 0, 0, 0) + program):
        with pytest.raises(MediaError, match="PostScript program"):
            read_image(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        for reader in READERS:
            with pytest.raises(MediaError, match="no regular file"):
                reader(path)
    with pytest.raises((OSError, Gemma4Error)):
        kind_of_file(Path("/dev/zero"))
