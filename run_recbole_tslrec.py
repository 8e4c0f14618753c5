"""RecBole's run_recbole.py with the plug-in loaded; any key of the yaml files as --key=value."""

# At the top level, so that the processes of --nproc know our models too.
import recbole_tslrec  # noqa: F401
from recbole_tslrec.quick_start import main

if __name__ == "__main__":
    main()
