"""What `headrace batch submit` makes of the files that people have."""

from pathlib import Path

import orjson
import pytest

from api import prompts


@pytest.mark.parametrize(
    ("content", "endpoint"),
    [
        (b'{"url": "/v1/embeddings"}\n', "/v1/embeddings"),
        (b'\xef\xbb\xbf{"url": "/v1/embeddings"}\r\n', "/v1/embeddings"),
        (b'\nnot json\n[1]\n{"url": 1}\n{"no": "url"}\n{"url": "/v1/responses"}', "/v1/responses"),
        (b"", "/v1/chat/completions"),
    ],
)
def test_the_endpoint_is_that_of_the_first_line_that_has_one(tmp_path: Path, content: bytes, endpoint: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(content)

    assert prompts.endpoint_of(file) == endpoint


async def test_each_prompt_becomes_a_line_known_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes('\ufeffWhat is ü?\r\n\r\n  Say "hi"  \n'.encode())

    lines = b"".join([piece async for piece in prompts.as_json_lines(file, "gpt")]).splitlines()

    assert prompts.count(file) == len(lines) == 2
    assert [orjson.loads(line) for line in lines] == [
        {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "gpt", "messages": [{"role": "user", "content": text}]}}
        for number, text in ((1, "What is ü?"), (3, 'Say "hi"'))
    ]  # fmt: skip


async def test_a_large_file_is_converted_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("word " * 100 + "\n" + ("word " * 100 + "\n") * 999)

    pieces = [piece async for piece in prompts.as_json_lines(file, "gpt")]

    assert len(pieces) > 5 and max(map(len, pieces)) < 70_000
    assert b"".join(pieces).count(b"\n") == 1000
