from collections.abc import Callable, Sequence


def resolve(
    implementation: str | None,
    names: Sequence[str],
    *,
    choose: Callable[[], str],
    refusal: Callable[[str], str | None],
) -> str:
    """Decides which implementation of a kernel to use, or says why not the one named.

    **Arguments:**

    - `implementation`: What the caller of the kernel asked for; `None` lets it choose.
    - `names`: All there are.
    - `choose`: Gives the best for this device, dtype and shape.
    - `refusal`: Why one cannot compute this, or `None` if it can.
    """
    if implementation is None:
        return choose()
    if implementation not in names:
        raise ValueError(
            f"`implementation` must be None or one of {list(names)}; got "
            f"{implementation!r}."
        )
    reason = refusal(implementation)
    if reason is not None:
        possible = [name for name in names if refusal(name) is None]
        raise ValueError(
            f"`implementation={implementation!r}` {reason}. Possible here: None "
            f"(chooses) or one of {possible}."
        )
    return implementation
