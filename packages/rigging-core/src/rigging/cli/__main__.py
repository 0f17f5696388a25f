"""``python -m rigging.cli`` is ``rigging``, where scripts are not on the path."""

from rigging.cli import main

if __name__ == "__main__":
    main()
