"""Run the campaign: python -m campaign [NAME …] with the folder tests on the path. See --help."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}

from campaign.campaign import main

main()
