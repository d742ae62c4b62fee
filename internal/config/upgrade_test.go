package config_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/config"
)

func upgrade(args ...string) (config.UpgradeSettings, error) {
	fs := flagSet()
	flags := config.BindUpgrade(fs)
	if err := fs.Parse(args); err != nil {
		return config.UpgradeSettings{}, err
	}
	return flags.Resolve()
}

func TestUpgradeFlags_ResolveEveryFlag(t *testing.T) {
	got, err := upgrade("--key", "key.asc", "--releases-url", "https://mirror.example.com/eds", "--dry-run", "--allow-downgrade",
		"--accept")
	if err != nil {
		t.Fatal(err)
	}
	want := config.UpgradeSettings{
		Release:        config.Release{KeyFile: "key.asc", URL: "https://mirror.example.com/eds"},
		AllowDowngrade: true, DryRun: true, Accept: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUpgradeFlags_RefuseRollbackWithAccept(t *testing.T) {
	usage := new(config.UsageError)
	if _, err := upgrade("--rollback", "--accept"); !errors.As(err, &usage) || usage.Name != "--rollback" {
		t.Error(err)
	}
}
