"""What the house does now: ``gather`` looks, ``text`` says it."""

from nanoclaw.status.gathering import gather as gather
from nanoclaw.status.wording import text as text
