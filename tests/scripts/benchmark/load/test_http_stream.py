from scripts.benchmark.load.http_stream import Response, Stream

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(content: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % content.encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_chunks_are_decoded_however_they_arrive():
    sent = HEAD + chunk(b"one ") + chunk(b"two") + b"0\r\n\r\n"
    response = Response()

    body = b"".join(response.feed(sent[at : at + 1]) for at in range(len(sent)))

    assert (response.status, body, response.is_done) == (200, b"one two", True)


def test_response_with_a_length_ends_after_it():
    response = Response()

    body = response.feed(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nno")
    assert not response.is_done
    body += response.feed(b"pe")

    assert (response.status, body, response.is_done) == (401, b"nope", True)


def test_closing_connection_is_noticed():
    response = Response()

    response.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    assert (response.keeps_alive, response.is_done) == (False, True)


def test_stream_counts_chunks_and_times():
    stream = Stream(asked_at=10.0)

    stream.feed(event(""), 10.1)
    stream.feed(event("a"), 10.25)
    stream.feed(event("b") + event("c"), 10.5)
    stream.feed(USAGE + DONE, 10.75)
    stream.conclude(max_tokens=3)

    assert (stream.ttft_s, stream.gaps_s, stream.chunks) == (0.25, [0.25], 3)
    assert (stream.tokens, stream.error) == (3, "")


def test_event_in_two_reads_counts_once():
    stream, sent = Stream(), event("a")

    stream.feed(sent[:30], 1.0)
    stream.feed(sent[30:], 2.0)

    assert (stream.chunks, stream.last_at) == (1, 2.0)


def test_text_that_looks_like_a_chunk_is_not_counted():
    stream = Stream()

    stream.feed(event('\\"content\\":\\"x'), 1.0)

    assert stream.chunks == 1


def test_stream_without_done_is_an_error():
    stream = Stream()

    stream.feed(USAGE, 1.0)
    stream.conclude(max_tokens=3)

    assert stream.error == "ended without [DONE]"


def test_other_number_of_tokens_is_an_error():
    stream = Stream()

    stream.feed(USAGE + DONE, 1.0)
    stream.conclude(max_tokens=4)

    assert stream.error == "3 tokens of usage instead of 4"


def test_any_number_of_tokens_is_right_if_the_model_may_end_earlier():
    stream = Stream()

    stream.feed(USAGE + DONE, 1.0)
    stream.conclude(max_tokens=None)

    assert stream.error == ""


def test_stream_without_usage_is_an_error():
    stream = Stream()

    stream.feed(DONE, 1.0)
    stream.conclude(max_tokens=None)

    assert stream.error == "ended without usage"


def test_error_event_is_kept():
    stream = Stream()

    stream.feed(b'data: {"error":{"message":"broken"}}\n\n', 1.0)
    stream.conclude(max_tokens=1)

    assert "broken" in stream.error


def test_words_out_of_order_are_an_error():
    stream = Stream("a b", reads_text=True)

    stream.feed(event("b") + event(" a") + USAGE + DONE, 1.0)
    stream.conclude(max_tokens=3)

    assert stream.error == "not the text of the prompt but 'b a'"
