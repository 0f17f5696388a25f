"""The provider mymodel for rigging."""

from mymodel_rigging._generator import MymodelGenerator

__all__ = ["MymodelGenerator"]
