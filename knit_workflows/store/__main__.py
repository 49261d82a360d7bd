"""`python -m knit_workflows.store`: brings the database of `KNIT_STORE__URL` to this version.

Run it before the first start and before each upgrade; a second run changes nothing.
"""

import asyncio

from knit_workflows.settings import Settings
from knit_workflows.store import migrate

asyncio.run(migrate(Settings().store.url.get_secret_value()))
