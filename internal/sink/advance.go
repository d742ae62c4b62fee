package sink

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Advancer is a Load that can apply later changes to its staged rows before Finish puts the rows in
// place. Readers of the live table then never see the table go back to an older state. The methods
// of an Advancer are called serially, like those of a Load, after the last LoadFile.
type Advancer interface {
	// Seal makes the same checks as Finish: the rows of every loaded file must be staged, and these
	// rows must be allowed to replace the table's rows. Then Seal indexes the staged rows. It
	// returns the same errors as Finish, and may be called more than once.
	Seal(ctx context.Context) error
	// Advance applies b to the sealed rows, in one transaction. All changes of b belong to the
	// load's table. The live table does not change. If b has already been applied, Advance does
	// nothing. After Advance, a later run of the job cannot resume the load.
	//
	// If the staged rows lack a column of b, or if a staged column is too narrow for b, the error
	// is a *NarrowLoadError. If batches that were applied earlier are lost, the error is
	// ErrLoadLost. Other errors are those of Sink.Apply.
	Advance(ctx context.Context, b *change.Batch) error
}

// NarrowLoadError says that the staged rows of a load cannot hold the columns of later changes.
// The load must start again with Table, which also has the columns of those changes.
type NarrowLoadError struct{ Table *schema.Table }

func (e *NarrowLoadError) Error() string {
	return fmt.Sprintf("the columns of table %q have changed while it was loaded; it is loaded again", e.Table.Name)
}
