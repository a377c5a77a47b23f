"""What a backbone is called, and what its name alone says, read without torch or timm.

The names of torch.hub (`dinov2_vits14_reg`, `dinov3_vitb16`) are the library's own. Those of repositories on the
Hugging Face hub (`facebook/dinov2-small`, `timm/...`) stand for one of these or for timm's name with its tag: `ALIASES`
of backbones.json, pattern -> name, the first that fits. What is recorded, and what an artefact's identity depends on,
is the name that an alias stands for.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cause_lib.errors import InputError

ALIASES: dict[str, str] = json.loads(Path(__file__).with_name("backbones.json").read_text(encoding="utf8"))["ALIASES"]


def canonical(name: Any) -> Any:
    """The name that `name` stands for; itself if it is none of another hub.

    Examples:
        >>> canonical("facebook/dinov2-with-registers-small"), canonical("google/siglip2-base-patch16-224")
        ('dinov2_vits14_reg', 'vit_base_patch16_siglip_224.v2_webli')
    """
    found = [match.expand(ours) for pattern, ours in ALIASES.items()
             if isinstance(name, str) and (match := re.fullmatch(pattern, name))]
    return found[0] if found else name


def patch_of(name: str) -> int:
    """Side of a patch in pixels, as the backbone's name has it; of a name without, 8 for ours and 16 for timm's.

    Examples:
        >>> [patch_of(name) for name in ("bundled", "dinov2_vits14_reg", "dinov3_vit7b16", "flexivit_base")]
        [8, 14, 16, 16]
    """
    found = re.search(r"(?:vit(?:[a-z]|\d+b)|patch)(\d+)", canonical(name))
    return int(found.group(1)) if found else 16 if re.match("flexivit|test_vit", name) else 8


def three_numbers(name: str, value: str | float | Sequence[float] | None) -> tuple[float, float, float] | None:
    """`mean` or `std` of pictures, of red, green and blue in [0, 1]: three numbers, as text too, or one for all three.

    Raises:
        ValueError: it is nothing of the kind, as of pixels from 0 to 255, or a standard deviation is not above 0.

    Examples:
        >>> three_numbers("mean", "0.485 0.456 0.406"), three_numbers("std", 0.5), three_numbers("std", None)
        ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5), None)
    """
    if value is None:
        return None
    try:
        parts = re.split(r"[\s,;]+", value.strip("[]() ")) if isinstance(value, str) else value
        numbers = [float(part) for part in (parts if isinstance(parts, Sequence) else [parts])]
    except (TypeError, ValueError):
        numbers = []
    low, above, such = ((1e-6, " and above 0", "0.229 0.224 0.225") if name.endswith("std") else
                        (0.0, "", "0.485 0.456 0.406"))
    if len(numbers) not in (1, 3) or not all(low <= number <= 1 for number in numbers):
        way = " (those of pixels from 0 to 255: divide by 255)" if any(1 < number <= 255 for number in numbers) else ""
        raise InputError(f"Parameter {name} must be three numbers, of red, green and blue in [0, 1]{above}, such as "
                         f'"{such}", not {str(value)[:100]!r}{way}.')
    return tuple(numbers * (3 // len(numbers)))
