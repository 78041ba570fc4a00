"""Usage × tariff → amounts. Pure integers: no storage, no clock, no float."""
