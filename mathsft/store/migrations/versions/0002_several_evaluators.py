"""Sessions count evaluators; checkpoints have stamps"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Change the tables; earlier sessions had one evaluator, and earlier checkpoints have no stamps."""
    with op.batch_alter_table("msft_checkpoint") as batch_op:
        batch_op.add_column(sa.Column("stamps", sa.JSON(), nullable=True, server_default="[]"))
        batch_op.add_column(sa.Column("finite_dtype", sa.Text(), nullable=True, server_default=""))
    with op.batch_alter_table("msft_session") as batch_op:
        batch_op.add_column(sa.Column("num_evaluators", sa.BigInteger(), nullable=True, server_default="1"))
