"""instructor: a pydantic model as the answer, by `response_format`."""

import json
import os

import instructor
import openai
from pydantic import BaseModel, ConfigDict, Field


class Visit(BaseModel):
    """A visit, and nothing else: a model with random weights would name member after member."""

    model_config = ConfigDict(extra="forbid")

    days: int = Field(ge=1, le=9)
    by_train: bool


client = instructor.from_openai(
    openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA
)
visit = client.chat.completions.create(
    model="tiny",
    response_model=Visit,
    max_retries=0,
    temperature=0,
    messages=[{"role": "user", "content": "two days in Rome"}],
)
print(json.dumps({"kind": type(visit).__name__, "days": visit.days, "by_train": visit.by_train}))
