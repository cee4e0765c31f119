"""The long, many-seed runs behind the chapters: `python -m kdutils.studies.NAME`."""
