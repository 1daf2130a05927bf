"""Tables of trained architectures: reading published ones, querying and building them.

For example::

    table = load_table("path/to/nb-asr")        # a folder with the published pickle files,
    table = load_table("synth_timit")           # a shipped table, or an SQLite file
    table.val_acc([[1, 0], [1, 0, 0], [1, 0, 0, 0]], epoch=8, seed=1234)
"""

from nas_encoder.tabular.contents import Training, model_hash
from nas_encoder.tabular.pickles import PublishedFile, read_published
from nas_encoder.tabular.published import from_folder, load_published
from nas_encoder.tabular.store import TableFile, convert, list_tables, load_table
from nas_encoder.tabular.table import AGGREGATES, Table

__all__ = [
    "AGGREGATES",
    "PublishedFile",
    "Table",
    "TableFile",
    "Training",
    "convert",
    "from_folder",
    "list_tables",
    "load_published",
    "load_table",
    "model_hash",
    "read_published",
]
