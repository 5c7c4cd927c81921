package main

import "github.com/spf13/cobra"

func demoCommand(env *environment) *cobra.Command { return &cobra.Command{Use: "demo"} }
