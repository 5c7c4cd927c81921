package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// ownSteps are the story of a manifest that the user brought.
func ownSteps(file string) []step {
	return []step{
		joinStep(),
		{id: "topology", title: "The manifests of " + file + " are applied", run: (*story).applyOwn},
	}
}

// neededMembers are those that the manifests name and, if a group selects
// members by their labels, the first three cities.
func neededMembers(resources []manifest, named []string) []string {
	selects := len(named) == 0
	for _, r := range resources {
		groups, _, _ := unstructured.NestedSlice(r.Object, "spec", "groups") // of another form: no groups
		for _, g := range groups {
			if m, ok := g.(map[string]any); ok && m["selector"] != nil {
				selects = true
			}
		}
	}
	if !selects {
		return named
	}
	names := []string{berlin, tokyo, denver}
	for _, n := range named {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

const (
	// ownLimit is how long a user's manifests may take to become Ready.
	ownLimit = 60 * time.Second
	// refusedFor is how long a refusal must stand before it is believed: one
	// object may be looked at before the other that it needs.
	refusedFor = 3 * time.Second
)

// errRefused says that manifests cannot become Ready as they are.
var errRefused = errors.New("refused")

// applyOwn applies the user's manifests and waits for Ready, or says why not.
func (s *story) applyOwn(ctx context.Context) (string, error) {
	at := time.Now()
	if err := apply(ctx, s.fed.api, s.right); err != nil {
		return "", fmt.Errorf("%w: %w", errRefused, err)
	}
	s.say("%d resources applied", len(s.right))
	var refusedSince time.Time
	var last *hubapi.Report
	err := s.fed.await(ctx, ownLimit, "every object is Ready", func(ctx context.Context) error {
		snap, err := s.fed.api.Snapshot(ctx)
		if err != nil {
			return err
		}
		last = hubapi.Judge(snap, time.Now())
		if !slices.ContainsFunc(last.Findings, func(f hubapi.Finding) bool { return f.Area == hubapi.AreaRefused }) {
			refusedSince = time.Time{}
		} else if refusedSince.IsZero() {
			refusedSince = time.Now()
		} else if time.Since(refusedSince) > refusedFor {
			return hopeless{fmt.Errorf("%w: %s", errRefused, spell(last, 12))}
		}
		if !last.Fine {
			return errors.New(spell(last, 12))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	s.tellReady(ctx)
	return fmt.Sprintf("Ready %s after they were applied. %s", seconds(time.Since(at)), last.Summary), nil
}
