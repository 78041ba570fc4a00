"""The words of the house: money, quantities, ids, clock, limits, errors, records. Imports nothing of ours."""
