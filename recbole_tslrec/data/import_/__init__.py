"""Making RecBole's files of other people's."""
