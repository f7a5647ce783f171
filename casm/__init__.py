__version__ = "0.1.0"
__all__ = ["SparseMemoryFinetuner", "SparseMemoryFinetuningArgs", "TemporalLM"]


def __getattr__(name):
    "What is asked for is imported when it is asked for: `import casm` needs no torch"
    if name not in __all__: raise AttributeError(f"module 'casm' has no attribute {name!r}")
    if name == "TemporalLM": from . import temporal_lm as home
    else: from . import finetuner as home
    return getattr(home, name)
