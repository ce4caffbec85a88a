"""The sections of the report page, one file each. A section is a function of the runs; "" where it has nothing to show."""
