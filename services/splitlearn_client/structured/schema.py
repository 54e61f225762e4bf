"""JSON Schemas (draft 2020-12) in the words that llguidance does exactly.

llguidance ignores nothing in silence, but does only a part of the keywords. So a schema is taken apart into pieces, one
for each JSON type and alternative, and written anew. What cannot be is refused with the keyword's name. An answer that
follows what is written here follows the schema; the other way round, members come in the order in which the schema
names them, and `format` is a rule.

Pure.
"""

from typing import Any

from splitlearn_client.structured.document import Document, UnsupportedSchema
from splitlearn_client.structured.emission import Emission
from splitlearn_client.structured.expansion import Expansion
from splitlearn_client.structured.keywords import key

__all__ = ["UnsupportedSchema", "rewritten"]


def rewritten(schema: Any) -> dict[str, Any]:
    """The schema for llguidance. Its work and its length are bounded.

    Raises:
        UnsupportedSchema: it is no schema, no value follows it, or it cannot be followed exactly.
    """
    document = Document(schema)
    try:
        return Emission(Expansion(document)).whole(key(document, document.root, schema))
    except RecursionError as error:
        raise UnsupportedSchema("the schema is too deep") from error
