"""Setups: their fields, checks and files."""

from byzray.setups.fields import REGISTRIES, Setup
from byzray.setups.files import load_setup
from byzray.setups.learning_rate import LearningRate
from byzray.setups.sections import Actors, Momentum, Placement, Study

__all__ = ["REGISTRIES", "Actors", "LearningRate", "Momentum", "Placement", "Setup", "Study", "load_setup"]
