"""Senses and hands: any Gymnasium space <-> a percept of fixed size and a fixed grid of choices."""

from fifteen.hands import Hands, HandShape, Valid
from fifteen.senses import IMAGE_SIZE, Sensation, Senses

__all__ = ["IMAGE_SIZE", "HandShape", "Hands", "Sensation", "Senses", "Valid"]
