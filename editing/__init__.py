"""Edit what a model knows: an edit is a value that can be applied, undone, saved and composed."""

from .collect import collect_moments as collect_moments
from .contexts import sample_contexts as sample_contexts
from .convergence import Convergence as Convergence
from .convergence import Look as Look
from .edit import Edit as Edit
from .factors import Factors as Factors
from .hparams import PRESET_DIFFERENCES as PRESET_DIFFERENCES
from .hparams import PRESETS as PRESETS
from .hparams import RomeHparams as RomeHparams
from .memory import LinearMemory as LinearMemory
from .moments import SecondMoment as SecondMoment
from .provenance import Provenance as Provenance
from .report import BatchReport as BatchReport
from .report import RomeReport as RomeReport
from .request import EditRequest as EditRequest
from .rome import rome as rome
from .spectrum import Repair as Repair
