"""Stage 5, meter: journal, slots, energy clocks; replay after a crash. Knows no prices and no database."""
