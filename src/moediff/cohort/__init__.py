"""Cohorts: many scans as tasks on one machine or a cluster, with a journal, and BIDS data sets in and out."""
