"""Many runs: search spaces, schedulers, trials and reports. Imports `trainjobs`, never the reverse."""
