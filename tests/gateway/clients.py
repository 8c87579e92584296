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


def seen(tenant, path, response, text, input_tokens, output_tokens):
    return {
        "tenant": tenant,
        "path": path,
        "id": response.headers["x-stream-id"],
        "text": text,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }


def complete():
    """Each protocol, whole and streamed, five words each."""
    path = "/v1/chat/completions"
    raw = OPENAI.chat.completions.with_raw_response.create(model="demo", messages=ASK, max_tokens=5)
    chat = raw.parse()
    assert chat.choices[0].finish_reason == "length", chat
    text = chat.choices[0].message.content
    yield seen("alice", path, raw, text, chat.usage.prompt_tokens, chat.usage.completion_tokens)

    raw = OPENAI.chat.completions.with_raw_response.create(
        model="demo", messages=ASK, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(raw.parse())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length", chunks
    usage = chunks[-1].usage
    yield seen("alice", path, raw, text, usage.prompt_tokens, usage.completion_tokens)

    path = "/v1/completions"
    raw = OPENAI.completions.with_raw_response.create(model="demo", prompt="how are you", max_tokens=5)
    done = raw.parse()
    yield seen("alice", path, raw, done.choices[0].text, done.usage.prompt_tokens, done.usage.completion_tokens)

    raw = OPENAI.completions.with_raw_response.create(
        model="demo", prompt="how are you", max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(raw.parse())
    text = "".join(c.choices[0].text for c in chunks if c.choices)
    usage = chunks[-1].usage
    yield seen("alice", path, raw, text, usage.prompt_tokens, usage.completion_tokens)

    path = "/v1/responses"
    raw = OPENAI.responses.with_raw_response.create(model="demo", input="how are you", max_output_tokens=5)
    done = raw.parse()
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens"), done
    yield seen("alice", path, raw, done.output_text, done.usage.input_tokens, done.usage.output_tokens)

    raw = OPENAI.responses.with_raw_response.create(
        model="demo", input="how are you", max_output_tokens=5, stream=True
    )
    events = list(raw.parse())
    assert [e.sequence_number for e in events] == list(range(len(events))), events
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    done = events[-1].response
    assert done.output_text == text, done
    yield seen("alice", path, raw, text, done.usage.input_tokens, done.usage.output_tokens)

    path = "/v1/messages"
    raw = ANTHROPIC.messages.with_raw_response.create(model="demo", messages=ASK, max_tokens=5)
    done = raw.parse()
    assert done.stop_reason == "max_tokens", done
    yield seen("bob", path, raw, done.content[0].text, done.usage.input_tokens, done.usage.output_tokens)

    with ANTHROPIC.messages.stream(model="demo", messages=ASK, max_tokens=5) as stream:
        done = stream.get_final_message()
        assert done.stop_reason == "max_tokens", done
        text = done.content[0].text
        yield seen("bob", path, stream.response, text, done.usage.input_tokens, done.usage.output_tokens)


def long_streams():
    """Each protocol, endless: the client's stream."""
    yield OPENAI.chat.completions.create(model="demo", messages=ASK, max_tokens=1_000_000, stream=True)
    yield ANTHROPIC.messages.create(model="demo", messages=ASK, max_tokens=1_000_000, stream=True)
    yield OPENAI.completions.create(model="demo", prompt="hi", max_tokens=1_000_000, stream=True)
    yield OPENAI.responses.create(model="demo", input="hi", max_output_tokens=1_000_000, stream=True)


def cancel():
    """Leaves after some events."""
    for stream in long_streams():
        events = iter(stream)
        for _ in range(10):
            next(events)
        stream.close()
        yield {"id": stream.response.headers["x-stream-id"]}


def stopped():
    """The operator stops the stream while the client reads it."""
    for stream in itertools.islice(long_streams(), 2):
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


SCENES = {"complete": complete, "cancel": cancel, "stopped": stopped, "errors": errors}
json.dump(list(SCENES[SCENE]()), sys.stdout)
