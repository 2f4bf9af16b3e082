import pytest

from dlmo.atomic import write_atomically


def test_what_cannot_be_written_takes_no_room(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_writing_is_atomic(tmp_path):
    target = tmp_path / "model.tflite"
    write_atomically(target, b"first")
    write_atomically(target, b"second")
    assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
