"""What the official client for Python gets, as one JSON value on standard output.

The first argument names what it does; client.cjs does and prints the same.
"""

import json
import sys
import typing

import openai
import pydantic

client = openai.OpenAI(max_retries=0)
ASK = [
    {"role": "system", "content": "Answer questions about this project."},
    {"role": "user", "content": [{"type": "text", "text": "What is a projection here?"}]},
]

NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "what"}}}


def first_model():
    return client.models.list().data[0].id


def create(**more):
    return client.chat.completions.create(**{"model": first_model(), "messages": ASK, **more})


def list_models():
    ids = [model.id for model in client.models.list()]
    return {"ids": ids, "one": client.models.retrieve(ids[0]).to_dict()}


def stream():
    chunks = create(
        max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    return [chunk.to_dict() for chunk in chunks]


def logprobs():
    more = {"max_tokens": 8, "logprobs": True, "top_logprobs": 3, "temperature": 0}
    chunks = [chunk.to_dict() for chunk in create(stream=True, **more)]
    return {"whole": create(**more).to_dict(), "chunks": chunks}


class City(pydantic.BaseModel):
    name: typing.Literal["Athens", "Bergen"]
    people: int = pydantic.Field(ge=0, le=9_999_999)


def schema():
    parsed = client.chat.completions.parse(
        model=first_model(), messages=ASK, response_format=City, temperature=0, max_tokens=120
    )
    city = parsed.choices[0].message.parsed
    assert isinstance(city, City), parsed
    return {"whole": parsed.to_dict(), "parsed": city.model_dump()}


def failure(attempt):
    try:
        attempt()
    except openai.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "param": error.param,
            "type": error.type,
            "request_id": error.request_id is not None,
        }
    raise AssertionError("it is not refused")


def errors():
    stranger = openai.OpenAI(api_key="amk_wrong", max_retries=0)
    return [
        failure(lambda: stranger.models.list()),
        failure(lambda: client.models.retrieve("no-model")),
        failure(lambda: create(model="no-model")),
        failure(lambda: create(model="no-model", stream=True)),
        failure(lambda: create(n=2)),
        failure(lambda: create(messages=[])),
        failure(lambda: create(temperature=3, stream=True)),
        failure(lambda: create(messages=[{"role": "user", "content": "why " * 6000}])),
        failure(lambda: create(response_format=NO_SCHEMA, stream=True)),
    ]


def cancel():
    pieces = create(stream=True)
    told = [next(pieces).id for _ in range(3)]
    pieces.close()
    try:
        create(timeout=1.5)
    except openai.APITimeoutError:
        return {"streamed": told[0]}
    raise AssertionError("it is answered in time")


WHAT_TO_DO = {
    "list": list_models,
    "plain": lambda: create(max_completion_tokens=40, temperature=0, user="u1").to_dict(),
    "stream": stream,
    "logprobs": logprobs,
    "schema": schema,
    "errors": errors,
    "cancel": cancel,
}
print(json.dumps(WHAT_TO_DO[sys.argv[1]]()))
