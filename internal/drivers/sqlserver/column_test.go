package sqlserver

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "sqlserver", rules) }
