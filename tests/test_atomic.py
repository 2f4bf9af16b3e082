from dlmo.atomic import write_atomically


def test_writing_is_atomic(tmp_path):
    target = tmp_path / "model.tflite"
    write_atomically(target, b"first")
    write_atomically(target, b"second")
    assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
