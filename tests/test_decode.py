"""Files to pixels: endings, metadata that are broken, levels of more than 8 bits, reasons of what cannot be read."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evo.errors import UserError
from runs.prepare import run_prepare
from tests.test_data import write_images
from training.config import make_config
from training.data import folder
from training.data.decode import Decoder
from training.data.image_set import UnreadableImage
from training.data.levels import Levels
from training.data.load import load_data
from training.data.metadata import without_metadata
from training.data.walk import image_endings
from training.options import DataOptions

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)  # 12 bits
EIGHT = torch.linspace(0, 255, 64).round().int().view(8, 8)


def encoded(format, pixels=PICTURE, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decoded(path, data, **levels):
    path.write_bytes(data)
    return Decoder(8, Levels(**levels))(path)


# Endings


@pytest.mark.parametrize("ending", [".gif", ".jfif", ".avif", ".pgm", ".jpe", ".jp2", ".mpo", ".tga", ".pbm", ".JPEG"])
def test_images_of_all_endings_that_pillow_decodes_are_taken(tmp_path, ending):
    assert ending.lower() in image_endings()
    grey = ending in (".gif", ".pgm", ".pbm")
    path = tmp_path / f"x{ending}"
    image = Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).convert("L" if grey else "RGB")
    image.save(path, {".JPEG": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG"}.get(ending))
    assert Decoder(8)(path).min() > 250


def test_what_is_no_image_or_runs_programs_is_not_taken():
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".txt", ".npy", ".json", ""} & image_endings()


def test_of_animations_the_first_frame_counts(tmp_path):
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    for ending in ("gif", "tiff", "webp"):
        frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:])
        assert abs(int(Decoder(8)(tmp_path / f"x.{ending}").float().mean()) - 10) < 4


# Metadata


def chunk(kind, data, damage=0):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damage)


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


LARGE = zlib.compress(b"a" * (3 * 2**20))
CHUNKS = {
    "eXIf": chunk(b"eXIf", b"no TIFF"), "eXIf crc": chunk(b"eXIf", b"II*\0", 1), "zTXt": chunk(b"zTXt", b"k\0\0" + LARGE),
    "iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE), "zTXt method": chunk(b"zTXt", b"k\0\5ab"), "iCCP": chunk(b"iCCP", b""),
    "iCCP large": chunk(b"iCCP", b"n\0\0" + LARGE), "pHYs": chunk(b"pHYs", b"12"), "gAMA": chunk(b"gAMA", b"1"),
    "acTL": chunk(b"acTL", b"1"), "fcTL": chunk(b"fcTL", b"\0" * 8), "tEXt crc": chunk(b"tEXt", b"a\0b", 1),
}  # fmt: skip
SEGMENTS = {
    "Exif": segment(0xE1, b"Exif\0\0rubbish"), "Exif cut": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<rub\xff"), "ICC": segment(0xE2, b"ICC_PROFILE\0"),
    "MPF": segment(0xE2, b"MPF\0rubbish"), "Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04"),
    "Adobe": segment(0xEE, b"Adobe"), "JFIF": segment(0xE0, b"JFIF"), "comment": segment(0xFE, b"\xff\xfe"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHUNKS)
def test_broken_chunks_beside_a_pngs_pixels_change_nothing(tmp_path, name, recwarn):
    sound = encoded("PNG")
    for data in (sound[:33] + CHUNKS[name] + sound[33:], sound[:-12] + CHUNKS[name] + sound[-12:]):
        assert torch.equal(decoded(tmp_path / "x.png", data), decoded(tmp_path / "y.png", sound))
    assert not recwarn.list


@pytest.mark.parametrize("name", SEGMENTS)
def test_broken_segments_beside_a_jpegs_pixels_change_nothing(tmp_path, name, recwarn):
    sound = encoded("JPEG")
    with_segment = sound[:2] + SEGMENTS[name] + sound[2:]
    assert torch.equal(decoded(tmp_path / "x.jpg", with_segment), decoded(tmp_path / "y.jpg", sound))
    assert not recwarn.list


@pytest.mark.parametrize(
    "rubbish", [b"rubbish", b"Exif\0\0rubbish", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.parametrize("kind", ["exif", "xmp", "icc_profile"])
@pytest.mark.parametrize("format", ["WEBP", "PNG", "JPEG", "TIFF"])
def test_rubbish_in_place_of_metadata_changes_nothing(tmp_path, format, kind, rubbish, recwarn):
    try:
        data = encoded(format, **{kind: rubbish})
    except Exception:
        pytest.skip("this encoder refuses it")
    recwarn.clear()  # of the encoder's
    assert torch.equal(decoded(tmp_path / "x", data), decoded(tmp_path / "y", encoded(format)))
    assert not recwarn.list


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", [0, *range(1, 9), 9, 65535])
def test_sound_orientations_turn_and_odd_ones_do_not(tmp_path, format, value):
    exif = Image.Exif()
    exif[0x0112] = value
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8, :8], picture[:8, 8:], picture[8:, :8] = 250, 160, 80
    expected = {2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}.get(value, "")
    whole = torch.from_numpy(picture).permute(2, 0, 1)
    for step in expected:
        whole = {"h": whole.flip(2), "v": whole.flip(1), "t": whole.transpose(1, 2)}[step]
    (tmp_path / "x").write_bytes(encoded(format, picture, exif=exif))
    assert (Decoder(16)(tmp_path / "x").int() - whole.int()).abs().float().mean() < 8
    if format == "PNG":  # also where another part of the metadata is broken
        data = (tmp_path / "x").read_bytes()
        (tmp_path / "x").write_bytes(data[:33] + CHUNKS["zTXt"] + data[33:])
        assert torch.equal(Decoder(16)(tmp_path / "x"), whole)


@given(st.binary(max_size=60))
def test_taking_metadata_out_never_fails(data):
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b""):
        assert without_metadata(head + data) is None or head


def test_what_is_cut_off_is_unreadable_with_or_without_metadata(tmp_path):
    for format, part in (("PNG", CHUNKS["zTXt"]), ("JPEG", SEGMENTS["ICC"])):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data, place = encoded(format, noise), 33 if format == "PNG" else 2
        data = data[:place] + part + data[place:]
        with pytest.raises(UnreadableImage):
            decoded(tmp_path / "x", data[: len(data) // 2])


# Levels


def tiff(data, bits, kind=1, photometric=1, channels=1):
    """An uncompressed 8x8 TIFF; kind: 1 unsigned, 2 signed, 3 with a fraction."""
    tags = [(256, 8), (257, 8), (259, 1), (262, photometric), (277, channels), (278, 8), (339, kind), (258, bits)]
    offset = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = [(tag, 3, 1, value) for tag, value in tags] + [(273, 4, 1, offset), (279, 4, 1, len(data))]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + data


def png16(colour, channels):
    rows = b"".join(b"\0" + np.repeat(row, channels).astype(">u2").tobytes() for row in 16 * RAMP)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SIXTEEN = {
    "png": encoded("PNG", RAMP * 16), "tiff": encoded("TIFF", RAMP * 16), "pgm": encoded("PPM", RAMP * 16),
    "big-endian tiff": tiff((RAMP * 16).astype("<u2").tobytes(), 16), "jp2": encoded("JPEG2000", RAMP * 16),
    "pgm of 12 bits": b"P5 8 8 4095\n" + RAMP.astype(">u2").tobytes(), "rgb png": png16(2, 3), "rgba png": png16(6, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", SIXTEEN)
def test_sixteen_bits_become_eight(tmp_path, name):
    pixels = decoded(tmp_path / "x", SIXTEEN[name])
    assert (pixels - EIGHT).abs().max() <= 1


def test_white_is_zero_in_some_files(tmp_path):
    pixels = decoded(tmp_path / "x", tiff((RAMP * 16).astype("<u2").tobytes(), 16, photometric=0))
    assert (pixels - (255 - EIGHT)).abs().max() <= 1


DEEP = {
    "int32 tiff": (tiff(RAMP.astype("<i4").tobytes(), 32, 2), "levels of 32 bits, here from 0 to 4095"),
    "uint32 tiff": (tiff(RAMP.astype("<u4").tobytes(), 32), "levels of 32 bits"),
    "int16 tiff": (tiff(RAMP.astype("<i2").tobytes(), 16, 2), "signed levels of 16 bits"),
    "float tiff": (tiff(RAMP.astype("<f4").tobytes(), 32, 3), "levels with a fraction"),
    "float pfm": (encoded("PPM", RAMP.astype(np.float32)), "levels with a fraction"),
}


@pytest.mark.parametrize("name", DEEP)
def test_levels_without_an_agreed_white_are_refused_until_it_is_given(tmp_path, name):
    data, what = DEEP[name]
    with pytest.raises(UnreadableImage, match=rf"x: {what}.* no agreed white; set data.levels=\[BLACK,WHITE\]"):
        decoded(tmp_path / "x", data)
    assert (decoded(tmp_path / "x", data, given=(0, 4095)) - EIGHT).abs().max() <= 1
    with pytest.raises(UnreadableImage, match=r"levels from 0 to 4095, outside data.levels=\[0,1000\]"):
        decoded(tmp_path / "x", data, given=(0, 1000))


def test_levels_that_wrap_or_are_not_finite_are_refused(tmp_path):
    signed = tiff(np.arange(-32, 32, dtype=np.int8).tobytes(), 8, 2)
    with pytest.raises(UnreadableImage, match="signed levels of 8 bits, here from -32 to 31"):
        decoded(tmp_path / "x", signed)
    assert decoded(tmp_path / "x", signed, given=(-32, 31)).flatten()[[0, 63]].tolist() == [0, 255]
    large = tiff(np.linspace(0, 2**32 - 1, 64).astype("<u4").tobytes(), 32)
    assert (decoded(tmp_path / "x", large, given=(0, 2**32)) - EIGHT).abs().max() <= 1
    with pytest.raises(UnreadableImage, match="not finite"):
        decoded(tmp_path / "x", tiff(np.full(64, np.nan, "<f4").tobytes(), 32, 3), given=(0, 1))
    with pytest.raises(UnreadableImage, match="colours of 16 bits, of which Pillow reads the high byte alone"):
        decoded(tmp_path / "x", png16(2, 3), given=(0, 4095))


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_a_set_of_12_bits_in_16_is_refused_as_a_whole(tmp_path, monkeypatch, memory, kind, capsys):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(3):
            data = encoded("PNG", RAMP // (number + 1)) if kind == "grey" else png16(2, 3)
            if kind == "colour":
                rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in RAMP)
                data = data[:33] + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
            (tmp_path / part / "a" / f"{number}.png").write_bytes(data)
    if not memory:
        monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    options = {"name": "folder", "root": str(tmp_path), "image_size": 8}
    with pytest.raises(
        UserError, match=r"go up to [34],\d+ only \(.*png\), .* set data.levels=\[0,4095\] if they hold 12"
    ):
        load_data(DataOptions(**options))
    with pytest.raises(UserError, match=r"images of 16 bits go up to"):
        run_prepare(str(tmp_path), 8)
    if kind == "grey":
        training = load_data(DataOptions(**options, levels=(0, 4095)))[0]
        assert (training.batch(torch.arange(1))[0][0] - EIGHT).abs().max() <= 1
        run_prepare(str(tmp_path), 8, levels="0,4095")
        prepared = {**options, "root": f"{tmp_path}-prepared-8"}
        assert torch.equal(
            load_data(DataOptions(**prepared))[0].batch(torch.arange(3))[0], training.batch(torch.arange(3))[0]
        )
        with pytest.raises(UserError, match="was prepared with its levels"):
            load_data(DataOptions(**prepared, levels=(0, 4095)))
    (tmp_path / "train" / "a" / "0.png").write_bytes(encoded("PNG", RAMP * 16))
    assert len(load_data(DataOptions(**options))[0]) == 3  # one bright image: the others are that dark


@pytest.mark.parametrize("value", ["4095", "[0]", "[0,0]", "[5,1]", "[0,x]", "[0,1,2]", "[true,3]"])
def test_levels_are_two_numbers(value):
    with pytest.raises(UserError, match=r"data.levels: expected two numbers \[BLACK,WHITE\]"):
        make_config({}, [f"data.levels={value}"])
    with pytest.raises(UserError, match="data.levels: images of digits have 8 bits"):
        load_data(DataOptions(levels=(0, 5)))


MODES = [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "tiff"), ("YCbCr", "tiff"),
         ("LAB", "tiff"), ("RGBX", "tiff"), ("RGBA", "webp"), ("P", "gif"), ("L", "jpg")]  # fmt: skip


@pytest.mark.parametrize(("mode", "ending"), MODES)
def test_white_is_white_and_black_is_black_in_every_mode(tmp_path, mode, ending):
    picture = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 0).repeat(8, 1))
    picture = picture.convert("RGB").convert(mode)
    picture.save(tmp_path / f"x.{ending}")
    pixels = Decoder(8)(tmp_path / f"x.{ending}").int()
    assert pixels[:, :, :3].max() <= 4 and pixels[:, :, 5:].min() >= 251


# Reasons


REASONS = {
    "empty": (b"", "an empty file, 0 bytes"),
    "page": (b"\n <!DOCTYPE html><html>404", "a web page (HTML), not an image"),
    "text": (b"Not found\n", "text, not an image: 'Not found'"),
    "svg": (b"<svg xmlns='x'/>", "an SVG or XML file, which has no pixels"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "zip": (b"PK\x03\x04abc", "a ZIP archive"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, which is not decoded here"),
    "zeros": (bytes(2000), "nothing but zeros where its head should be"),
    "rubbish": (b"\x12\xff\x83\xfe" * 99, "damaged at its head, or of no format that is known"),
    "large": (b"P6 20000 20000 255\n", "Image size (400000000 pixels) exceeds limit"),
    "cut": (
        encoded("JPEG", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:2000],
        "truncated",
    ),
    "binary": (b"\x89PNG\r\n\x1a\nrubbish", "damaged at its head"),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_that_a_file_is_unreadable_is_told(tmp_path, name):
    data, reason = REASONS[name]
    with pytest.raises(UnreadableImage) as caught:
        decoded(tmp_path / "x.jpg", data)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_links_pipes_and_folders_in_an_images_place_are_told(tmp_path):
    (tmp_path / "dead.jpg").symlink_to("gone.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {}
    for path in tmp_path.iterdir():
        with pytest.raises(UnreadableImage) as caught:
            Decoder(8)(path)
        reasons[path.stem] = caught.value.reason
    assert reasons["dead"] == "a link to gone.jpg, which does not exist" and reasons["self"].startswith("a link that")
    assert reasons["folder"] == reasons["pipe"] == "not a file"


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(path := tmp_path / "x.png")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refused)
    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(UnreadableImage, match="x.png: permission denied"):
        Decoder(8)(path)


def test_a_dead_link_is_one_line_of_prepare(tmp_path, cli):
    write_images(tmp_path / "pets" / "train", ["cat"])
    write_images(tmp_path / "pets" / "val", ["cat"])
    (tmp_path / "pets" / "train" / "cat" / "dead.jpg").symlink_to("/nowhere/x.jpg")
    status, _, said = cli("prepare", str(tmp_path / "pets"), "--size", "8")
    assert status == 2 and "Traceback" not in said
    assert "train/cat/dead.jpg (a link to /nowhere/x.jpg, which does not exist); repair" in said.splitlines()[-1]


def test_a_tree_without_test_images_is_prepared_without(tmp_path, cli):
    write_images(tmp_path / "pets" / "train", ["cat", "dog"], count=5)
    status, said, _ = cli("prepare", str(tmp_path / "pets"), "--size", "8")
    assert status == 0 and "-s data.validation=0.2" in said
    options = {"name": "folder", "root": f"{tmp_path}/pets-prepared-8"}
    with pytest.raises(
        UserError, match=r"was prepared without test images; hold out a fifth .* -s data.validation=0.2"
    ):
        load_data(DataOptions(**options))
    training, test = load_data(DataOptions(**options, validation=0.2))
    assert (len(training), len(test)) == (8, 2)
