"""Several processes that train one agent together: torchrun starts them, torch.distributed connects them."""

from .ranks import ALONE as ALONE
from .ranks import RankLost as RankLost
from .ranks import Ranks as Ranks
from .ranks import connected as connected
from .ranks import seed_of as seed_of
