"""What a language model's replies and errors are read as, whatever shape a server gives them."""

import pytest

from c2srt.relations.completion import ApiError, Malformed, api_error, parse_completion
from c2srt.relations.prompt import Unparsable, prompt_text, read_reply
from tests.llm_server import as_json, as_text

PAPERS = """
Related Category 1: natural

- **Type of Relationship:** Synonymy/Similarity
- **Association Strength:** High
- **Explanation:** "Natural" is conceptually very similar to "nature": both refer to the \
physical world.

**Related Category 2: fauna**

– **Type of Relationship:** Is-a/Hypernym
– **Association Strength:** Medium
– **Explanation:** Animal life.
"""


def test_the_papers_example_is_read():
    assert read_reply(PAPERS) == [("natural", "synonymy", "high"), ("fauna", "is-a", "medium")]
    assert read_reply("No related categories.") == [] == read_reply('{"related": []}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sorry.",
        PAPERS.replace("High", "Very high"),
        PAPERS.replace("Is-a", "Kind of"),
        PAPERS.rsplit("– **Association", 1)[0],
        PAPERS.replace("fauna", ""),
        '{"related": [{"category": "x", "type": "Is-a/Hypernym"}]}',
        '{"related": [{"category": "x", ',
        '{"answer": []}',
        '{"related": []} {"related": []}',
        '{"related": [{"category": 3, "type": "Is-a", "strength": "High"}]}',
        '{"related": "none"}',
        '{"related": {"a": 1}}',
        '{"related": null}',
        '[{"related": []}, {"related": []}]',
        '{"related": [], "related": []}',
        "[" * 100_000 + "{",
        '{"related": ' + "[" * 100_000,
        PAPERS + PAPERS,
        PAPERS.replace("Category 2", "Category 1"),
        PAPERS.replace("Related Category 1", "<answer>Related Category 1"),
        PAPERS + '{"related": []}',
    ],
)
def test_what_is_not_in_a_form_is_not_guessed_at(text):
    with pytest.raises(Unparsable):
        read_reply(text)


def test_what_the_server_writes_is_read_back_and_the_prompt_names_each_candidate_once():
    related = [
        ("natural", "synonymy", "High"),
        ("sea", "part-whole", "Medium"),
        ("sky", "co-occurrence", "Low"),
    ]
    for form in (as_json, as_text):
        assert [(label, strength.title()) for label, _, strength in read_reply(form(related))] == [
            (one[0], one[2]) for one in related
        ]
    prompt = prompt_text("nature", ["sky", "sea {candidates}"], "json")
    assert (
        prompt.count('"nature"') == 2
        and prompt.endswith("the strongest first.")
        and "\nsky\nsea {candidates}\n" in prompt
    )


DRAFT, ANSWER = [("Car", "functional", "High")], [("Dog", "is-a", "High")]
MARKS = [
    ("<think>", "</think>"),
    ("<THINK>", "</think >"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ('<reasoning effort="high">', "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("", "</think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>"),
]


@pytest.mark.parametrize(("opening", "closing"), MARKS)
@pytest.mark.parametrize("form", [as_json, as_text])
@pytest.mark.parametrize(
    "draft",
    [as_json(DRAFT), as_text(DRAFT), 'It must look like {"related": [...]}.', as_text(DRAFT)[:40]],
)
def test_what_is_thought_aloud_is_no_part_of_the_answer(opening, closing, form, draft):
    assert read_reply(f"{opening}\n{draft}\n{closing}\n\n{form(ANSWER)}") == [
        ("Dog", "is-a", "high")
    ]
    assert (
        read_reply(f"{opening}{draft}{closing}{opening}{draft}{closing}No related categories") == []
    )


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_thinking_without_an_end_or_an_answer_is_none(opening, closing):
    for text in (
        f"{opening}{as_json(DRAFT)}{closing}\n",
        f"{as_json(ANSWER)}{opening}no{closing}",
        *(
            [
                f"{opening}{as_json(DRAFT)}",
                f"{as_text(ANSWER)}\n{opening}Or",
                f"x{closing}{opening}{as_json(DRAFT)}",
            ]
            if opening
            else []
        ),
    ):
        with pytest.raises(Unparsable, match="thinking"):
            read_reply(text)


def body(content: object = "words", **choice) -> dict:
    return {
        "model": "m-1",
        "choices": [
            {
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
                **choice,
            }
        ],
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("words", "words"),
        (None, ""),
        ([], ""),
        (["wor", "ds"], "words"),
        ({"type": "text", "text": "words"}, "words"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "no"}]},
                {"type": "text", "text": "words"},
            ],
            "words",
        ),
        (
            [
                {"type": "reasoning", "text": "no"},
                {"type": "output_text", "text": "wor"},
                {"text": {"value": "ds"}},
            ],
            "words",
        ),
        (
            [
                {"type": "image_url", "image_url": {}},
                {"type": "of-tomorrow", "text": "no"},
                None,
                "words",
            ],
            "words",
        ),
    ],
)
def test_text_comes_as_a_string_or_in_chunks(content, text):
    assert parse_completion(body(content), "m").text == text


def test_thinking_in_a_field_of_its_own_is_not_the_reply():
    said = body(None)
    said["choices"][0]["message"] |= {
        "reasoning_content": as_json(DRAFT),
        "reasoning": as_json(DRAFT),
        "refusal": "",
    }
    reply = parse_completion(said, "m")
    assert (reply.text, reply.refusal, reply.model) == ("", None, "m-1")
    assert (
        parse_completion(body([{"type": "refusal", "refusal": "I will not"}]), "m").refusal
        == "I will not"
    )


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (None, None)),
        ([], (None, None)),
        ("100", (None, None)),
        ({}, (None, None)),
        ({"prompt_tokens": 7, "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": "7", "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": -7, "completion_tokens": 3.5}, (None, None)),
        ({"prompt_tokens": 10**400, "completion_tokens": [3]}, (None, None)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (None, None)),
    ],
)
def test_a_count_of_tokens_that_is_none_is_not_told(usage, tokens):
    reply = parse_completion(body() | {"usage": usage}, "m")
    assert (reply.input_tokens, reply.output_tokens) == tokens


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "words",
        5,
        {},
        {"choices": None},
        {"choices": []},
        {"choices": {}},
        {"choices": ["words"]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "words"}]},
        {"choices": [{"text": "words"}]},
        body(5),
        body(True),
        body([5]),
        body([{"type": "text"}]),
        body([{"type": "text", "text": 5}]),
        body({"text": ["words"]}),
    ],
)
def test_a_body_that_is_no_completion_is_not_guessed_at(said):
    with pytest.raises(Malformed):
        parse_completion(said, "m")


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"choices": None, "error": {"code": 429, "message": "Slow"}}, 429, "429 Slow"),
        (
            {"error": {"code": "429", "message": "Slow", "metadata": {"raw": "Too Many"}}},
            429,
            "429 Slow (Too Many)",
        ),
        (
            {"error": {"code": "rate_limit_exceeded", "message": "Slow"}, "choices": []},
            429,
            "429 Slow",
        ),
        ({"error": "loading"}, None, "loading"),
        ({"error": ["loading", "x"]}, None, "loading"),
        ({"errors": [{"message": "no"}]}, None, "no"),
        (
            {"error": {"type": "authentication_error", "message": {"detail": ["no"]}}},
            401,
            '401 {"detail": ["no"]}',
        ),
        (
            {"error": {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}},
            None,
            "busy",
        ),
        ({"object": "error", "message": "busy", "code": 503}, 503, "503 busy"),
        ({"detail": "Not Found", "status": 404}, 404, "404 Not Found"),
        ({"error": True, "message": "busy"}, None, "busy"),
        ({"error": {"code": True}}, None, '{"code": true}'),
        (body(error={"code": 502, "message": "provider gone"}), 502, "502 provider gone"),
    ],
)
def test_an_error_with_status_200_is_said_in_its_own_words(said, status, words):
    with pytest.raises(ApiError) as raised:
        parse_completion(said, "m")
    assert (raised.value.status, str(raised.value)) == (status, words)


@pytest.mark.parametrize(
    ("finish", "whole"),
    [
        ("stop", True),
        (None, True),
        ("STOP", True),
        ("eos_token", True),
        ("length", False),
        ("max_tokens", False),
        ("content_filter", False),
        ("error", False),
        ("of-tomorrow", False),
        ({"type": "length"}, False),
    ],
)
def test_only_an_end_that_is_known_is_one(finish, whole):
    assert parse_completion(body(finish_reason=finish), "m").whole == whole


@pytest.mark.parametrize(
    ("status", "error", "content", "length"),
    [
        (400, {"code": "content_filter", "message": "no"}, True, False),
        (403, {"message": "your input was flagged"}, True, False),
        (
            400,
            {
                "message": "Output data may contain inappropriate content.",
                "code": "data_inspection_failed",
            },
            True,
            False,
        ),
        (500, {"code": "content_filter", "message": "no"}, True, False),
        (500, {"message": "the safety service is down"}, False, False),
        (429, {"message": "too many tokens: content policy"}, False, False),
        (400, {"code": "context_length_exceeded", "message": "no"}, False, True),
        (413, {"message": "no"}, False, True),
        (
            400,
            "This model's maximum context length is 4096 tokens, however you requested 5000",
            False,
            True,
        ),
        (422, {"message": "prompt is too long: 5000 tokens > 4096 maximum"}, False, True),
        (400, {"message": "response_format is not supported"}, False, False),
        (429, {"message": "context length"}, False, False),
    ],
)
def test_a_refusal_of_one_prompt_is_told_from_one_of_all(status, error, content, length):
    said = api_error(error, status)
    assert (said.about_content, said.about_length) == (content, length)
