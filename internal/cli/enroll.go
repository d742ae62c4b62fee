package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
)

func newEnroll(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enroll CODE",
		Short: "Enrol this machine at HQ with a one-time code",
		Long: `Redeems a one-time code for an API key and a server id, and keeps both in
config.toml in the data directory, for import and server.`,
		Example: "  eds enroll P1234ABCD",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usagef("%s needs one argument, the code that HQ shows; as in: eds enroll P1234ABCD", cmd.CommandPath())
			}
			return nil
		},
	}
	api := config.BindAPIURL(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := api.Resolve(config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		e, err := enroll(cmd.Context(), s, o.APIURL, strings.TrimSpace(args[0]))
		if err != nil {
			return err
		}
		fmt.Fprintf(out(cmd), "Enrolled as server %s. Next:\n\n  eds import --url <destination>\n  eds server --url <destination>\n\nSee the destinations with: eds server help\n", e.ServerID)
		return nil
	}
	return cmd
}

// enroll redeems a code and keeps what it was worth.
func enroll(ctx context.Context, s *setup, apiURL, code string) (hq.Enrolment, error) {
	base, err := hq.EnrollURL(apiURL, code)
	if err != nil {
		return hq.Enrolment{}, usageError{err}
	}
	client := hq.New(hq.Options{BaseURL: base, Version: s.build.Version, Logger: s.logger})
	defer client.Close()
	e, err := client.Enroll(ctx, code)
	if err != nil {
		return hq.Enrolment{}, err
	}
	err = config.Update(s.common.ConfigFile(), func(f *config.File) {
		f.Token, f.ServerID = config.NewSecret(e.Token), e.ServerID
	})
	return e, err
}

// attempts is how often a code is asked for.
const attempts = 3

// enrollAtTerminal asks for a code, and enrols with it.
func enrollAtTerminal(ctx context.Context, p Process, s *setup, apiURL string) error {
	command := fmt.Sprintf("eds enroll --data-dir %s CODE", s.common.DataDir)
	if !isTerminal(p.Stdin) {
		return usagef("this server is not enrolled at HQ, and there is no terminal to ask for the code at; run: %s", command)
	}
	person := newAsker(p)
	fmt.Fprintln(p.Stderr, "This server is not enrolled at HQ yet.")
	for range attempts {
		code, err := person.ask("The code that HQ shows: ")
		if errors.As(err, new(interrupted)) {
			return err
		}
		if err != nil {
			break
		}
		if code == "" {
			continue
		}
		e, err := enroll(ctx, s, apiURL, code)
		if err == nil {
			fmt.Fprintf(p.Stderr, "Enrolled as server %s.\n", e.ServerID)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		fmt.Fprintf(p.Stderr, "That did not work: %v\n", err)
	}
	return usagef("this server is not enrolled at HQ; make a new code there, and run: %s", command)
}
