"""Drives a gateway with the official clients: clients.py SCENE BASE_URL. Prints what they saw as JSON."""

import itertools
import json
import sys
import urllib.request

try:
    import anthropic
    import openai
except ImportError:
    sys.exit(77)

SCENE, BASE = sys.argv[1], sys.argv[2]
ASK = [{"role": "user", "content": "how are you"}]
OPENAI = openai.OpenAI(base_url=f"{BASE}/v1", api_key="sk-demo-alice", max_retries=0)
ANTHROPIC = anthropic.Anthropic(base_url=BASE, api_key="sk-demo-bob", max_retries=0)
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def seen(path, response, text, finish_reason, usage):
    """What there is to compare with the row, in the ledger's words."""
    tokens = {}
    if path in (CHAT, COMPLETIONS) and usage:
        details, output_details = usage.prompt_tokens_details, usage.completion_tokens_details
        tokens = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "cached_input_tokens": details.cached_tokens if details else None,
            "reasoning_tokens": output_details.reasoning_tokens if output_details else None,
            "total_tokens": usage.total_tokens,
        }
    elif path == RESPONSES:
        tokens = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": usage.input_tokens_details.cached_tokens,
            "reasoning_tokens": usage.output_tokens_details.reasoning_tokens,
            "total_tokens": usage.total_tokens,
        }
    elif path == MESSAGES:
        # Here the cached tokens are counted apart.
        cached, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        tokens = {
            "input_tokens": usage.input_tokens + cached + written,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": cached,
            "cache_write_input_tokens": written,
        }
    row = {
        "id": response.headers["x-stream-id"],
        "tenant": "bob" if path == MESSAGES else "alice",
        "path": path,
        "finish_reason": finish_reason,
        "text_len": len(text),
        **tokens,
    }
    return {"text": text, "row": row}


def joined(chunks, text):
    """Of a stream of chunks: the text of choice 0 and why it ended."""
    choices = [c.choices[0] for c in chunks if c.choices]
    return "".join(text(choice) or "" for choice in choices), choices[-1].finish_reason


def of_chat(choice):
    return choice.delta.content


def of_completion(choice):
    return choice.text


def chat_stream(**options):
    return OPENAI.chat.completions.with_raw_response.create(
        model="demo", messages=ASK, max_tokens=5, stream=True, **options
    )


def completion_stream(**options):
    return OPENAI.completions.with_raw_response.create(
        model="demo", prompt="how are you", max_tokens=5, stream=True, **options
    )


def complete():
    """Each protocol, whole and streamed, five words each."""
    raw = OPENAI.chat.completions.with_raw_response.create(model="demo", messages=ASK, max_tokens=5)
    chat = raw.parse()
    yield seen(CHAT, raw, chat.choices[0].message.content, chat.choices[0].finish_reason, chat.usage)

    raw = chat_stream(stream_options={"include_usage": True})
    chunks = list(raw.parse())
    yield seen(CHAT, raw, *joined(chunks, of_chat), chunks[-1].usage)

    raw = OPENAI.completions.with_raw_response.create(model="demo", prompt="how are you", max_tokens=5)
    done = raw.parse()
    yield seen(COMPLETIONS, raw, done.choices[0].text, done.choices[0].finish_reason, done.usage)

    raw = completion_stream(stream_options={"include_usage": True})
    chunks = list(raw.parse())
    yield seen(COMPLETIONS, raw, *joined(chunks, of_completion), chunks[-1].usage)

    raw = OPENAI.responses.with_raw_response.create(model="demo", input="how are you", max_output_tokens=5)
    done = raw.parse()
    assert done.status == "incomplete", done
    yield seen(RESPONSES, raw, done.output_text, done.incomplete_details.reason, done.usage)

    raw = OPENAI.responses.with_raw_response.create(
        model="demo", input="how are you", max_output_tokens=5, stream=True
    )
    events = list(raw.parse())
    assert [e.sequence_number for e in events] == list(range(len(events))), events
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    done = events[-1].response
    assert done.output_text == text, done
    yield seen(RESPONSES, raw, text, done.incomplete_details.reason, done.usage)

    raw = ANTHROPIC.messages.with_raw_response.create(model="demo", messages=ASK, max_tokens=5)
    done = raw.parse()
    yield seen(MESSAGES, raw, done.content[0].text, done.stop_reason, done.usage)

    with ANTHROPIC.messages.stream(model="demo", messages=ASK, max_tokens=5) as stream:
        done = stream.get_final_message()
        yield seen(MESSAGES, stream.response, done.content[0].text, done.stop_reason, done.usage)


def unasked():
    """Streams whose client does not ask for usage, and must not see that somebody else did."""
    no = {"include_usage": False}
    for raw, path, text in [
        (chat_stream(), CHAT, of_chat),
        (chat_stream(stream_options=no), CHAT, of_chat),
        (completion_stream(), COMPLETIONS, of_completion),
        (completion_stream(stream_options=no), COMPLETIONS, of_completion),
    ]:
        chunks = list(raw.parse())
        assert all(chunk.choices for chunk in chunks), chunks
        assert not any("usage" in chunk.model_fields_set for chunk in chunks), chunks
        yield seen(path, raw, *joined(chunks, text), None)


def long_streams():
    """Each protocol, endless: the client's stream, and how an event's text is found."""
    yield (
        OPENAI.chat.completions.create(model="demo", messages=ASK, max_tokens=1_000_000, stream=True),
        lambda chunk: chunk.choices[0].delta.content,
    )
    yield (
        ANTHROPIC.messages.create(model="demo", messages=ASK, max_tokens=1_000_000, stream=True),
        lambda event: event.delta.text if event.type == "content_block_delta" else None,
    )
    yield (
        OPENAI.completions.create(model="demo", prompt="how are you", max_tokens=1_000_000, stream=True),
        lambda chunk: chunk.choices[0].text,
    )
    yield (
        OPENAI.responses.create(model="demo", input="how are you", max_output_tokens=1_000_000, stream=True),
        lambda event: event.delta if event.type == "response.output_text.delta" else None,
    )


def cancel():
    """Leaves after some words."""
    for words in (1, 4, 40):
        for stream, text_of in long_streams():
            texts = filter(None, map(text_of, stream))
            text = "".join(itertools.islice(texts, words))
            stream.close()
            yield {"id": stream.response.headers["x-stream-id"], "text_len": len(text)}


def stopped():
    """The operator stops the stream while the client reads it."""
    for stream, _ in itertools.islice(long_streams(), 2):
        id = stream.response.headers["x-stream-id"]
        events = iter(stream)
        next(events)
        request = urllib.request.Request(f"{BASE}/streams/{id}", method="DELETE")
        assert urllib.request.urlopen(request).status == 204
        try:
            for _ in events:
                pass
            yield {"id": id, "raised": False}
        except Exception:
            yield {"id": id, "raised": True}


def errors():
    """What the gateway refuses."""
    try:
        OPENAI.with_options(api_key="sk-wrong").chat.completions.create(model="demo", messages=ASK)
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key", error
        yield "openai.AuthenticationError"
    try:
        ANTHROPIC.with_options(api_key="sk-wrong").messages.create(model="demo", messages=ASK, max_tokens=1)
    except anthropic.AuthenticationError:
        yield "anthropic.AuthenticationError"
    try:
        OPENAI.chat.completions.create(model="demo", messages=ASK, max_tokens=-1)
    except openai.BadRequestError as error:
        yield f"openai.BadRequestError {error.param}"
    try:
        ANTHROPIC.messages.create(model="demo", messages=ASK, max_tokens=-1)
    except anthropic.BadRequestError as error:
        yield f"anthropic.BadRequestError {error.body['error']['type']}"
    try:
        OPENAI.embeddings.create(model="demo", input="hi")
    except openai.NotFoundError:
        yield "openai.NotFoundError"


SCENES = {"complete": complete, "unasked": unasked, "cancel": cancel, "stopped": stopped, "errors": errors}
json.dump(list(SCENES[SCENE]()), sys.stdout)
