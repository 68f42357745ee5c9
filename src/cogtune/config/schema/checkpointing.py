"""The policies of `args.checkpoint_activations`: what each layer keeps between forward and backward."""

from enum import StrEnum


class Policy(StrEnum):
    """From the least memory to the most, and from the most time to the least."""

    FULL = "full"
    """The layer's input."""
    ATTENTION = "attention"
    """Its input and the result of attention, which costs as much as all matrix products at 17,776 tokens of 5B."""
    SELECTIVE = "selective"
    """Its input, attention, and the products of its linear layers; elementwise operations run again."""
    NONE = "none"
    """Everything."""

    @classmethod
    def of(cls, value: bool | str) -> "Policy":
        """The policy of a config value: a name, or SAT's true (full) and false (selective)."""
        if isinstance(value, bool):
            return cls.FULL if value else cls.SELECTIVE
        return cls(value)


CHOICES = (True, False, *(policy.value for policy in Policy))


def canonical(value: bool | str) -> bool | str:
    """SAT's spelling where it has one, so that a name changes no digest."""
    return {Policy.FULL: True, Policy.SELECTIVE: False}.get(Policy.of(value), value)
