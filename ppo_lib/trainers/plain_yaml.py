"""YAML as people mean it: keys, numbers, texts, true and false, and nothing that surprises.

YAML 1.1 reads ``1:30`` as 90, ``017`` as 15 and ``1e-4`` as text, it can name a part and repeat it without end, and its
tags ask for objects. Here a number is a plain decimal one, everything else is the text as it stands, and what only
builds large or strange values is refused.
"""

import re
from typing import Any

import yaml

DEEPEST, MOST_ALIASES = 20, 20  # far more than a configuration needs
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
REAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|nan)\Z")


class Refused(ValueError):
    """Text that is no plain YAML; says why."""


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader with decimal numbers only, and without dates."""


KEPT = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag in KEPT]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:int", DECIMAL, list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", REAL, list("-+.0123456789"))


def load_plain(text: str) -> Any:
    """The value that a YAML text says.

    Raises:
        Refused: not YAML, or a tag, a key given twice, parts that repeat or hold themselves, or too deep a nesting.
    """
    try:
        check_events(text)
        node = yaml.compose(text, Loader=Loader)
        check_keys(node)
        return yaml.load(text, Loader=Loader)  # a SafeLoader
    except Refused:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter from numbers of thousands of digits
        raise Refused(" ".join(str(error).split())) from error


def check_events(text: str) -> None:
    """Refuse what would cost much or surprise, before anything is built of it; errors as above."""
    open_anchors: list[str | None] = []
    aliases = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            if event.anchor in open_anchors:
                raise Refused(f"the part named &{event.anchor} holds itself (*{event.anchor}); write it out")
            if aliases > MOST_ALIASES:
                raise Refused(
                    f"it repeats named parts more than {MOST_ALIASES} times (*{event.anchor}); write them out"
                )
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            open_anchors.append(event.anchor)
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            open_anchors.pop()
        if len(open_anchors) > DEEPEST:
            raise Refused(f"it is nested more than {DEEPEST} levels deep; a configuration has two")
        if getattr(event, "tag", None) is not None:
            raise Refused(f"it has the tag {event.tag!r}; leave tags out")


def check_keys(root: Any) -> None:
    """Refuse a key that is given twice, instead of taking the last word silently; errors as above."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise Refused(f"key {key.value!r} is given twice")
                seen.add(key.value if isinstance(key.value, str) else "")
                nodes.append(value)
