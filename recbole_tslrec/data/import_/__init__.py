"""Making RecBole's files of other people's."""

# What a file of interactions may look like; ``data_import.import_data`` says more.
FORMS = ("sequences", "csv", "atomic")
