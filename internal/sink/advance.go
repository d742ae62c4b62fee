package sink

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Advancer is a Load whose staged rows can be brought forward before Finish puts them in
// place, so that readers never see older rows than before. Its methods are called serially,
// like those of a Load, after the last LoadFile.
type Advancer interface {
	// Seal checks, as Finish does, that the rows of every loaded file are staged and may
	// replace those of the table, and indexes them. Its errors are those of Finish. It may
	// be called again.
	Seal(ctx context.Context) error
	// Advance applies b's changes, all of the load's table, to the sealed rows, in one
	// transaction. The live table does not change. If b is applied already, it does
	// nothing. Another run cannot resume the load afterwards.
	//
	// If the rows lack columns of b, or have too narrow ones, the error is a
	// *NarrowLoadError. If earlier batches are lost, it is ErrLoadLost. Other errors are
	// those of Sink.Apply.
	Advance(ctx context.Context, b *change.Batch) error
}

// NarrowLoadError says that the staged rows of a load cannot hold the columns of later
// changes. The load must begin again with Table, which has those columns as well.
type NarrowLoadError struct{ Table *schema.Table }

func (e *NarrowLoadError) Error() string {
	return fmt.Sprintf("the columns of table %q have changed while it was loaded; it is loaded again", e.Table.Name)
}
