"""RecBole's run_recbole.py with the plug-in loaded; any key of the yaml files as --key=value."""

from recbole_tslrec.commands.run import main

if __name__ == "__main__":
    main()
