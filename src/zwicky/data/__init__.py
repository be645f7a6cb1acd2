"""Files become `Cutouts`, and stores of them: pixels that never change, and tables that do."""
